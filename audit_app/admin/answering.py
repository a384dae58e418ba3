"""How the pages answer: to whom, in which form, with which headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from flask import Response, current_app, make_response, redirect, request
from jinja2 import ChoiceLoader, PackageLoader
from werkzeug.exceptions import HTTPException

from audit_app.admin import documents, source, theme
from audit_app.admin.i18n import host_gettext, language, number_text, translator
from audit_app.admin.links import Links
from audit_app.admin.problems import Problem, problem_of
from audit_app.admin.reading import current_logger
from audit_app.errors import NotRegisteredError

_OPEN_VIEWS = frozenset({"assets"})

_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class Answering:
    """What a page is answered with: for a class that is a Flask-Admin view as well."""

    layout: ClassVar[str] = "audit/standalone.html"
    """The template that surrounds the pages."""

    stands_alone: ClassVar[bool] = True
    """Whether the whole page is ours, and with it the content security policy."""

    endpoint: str
    blueprint: Any
    url: str | None
    _template_args: dict[str, Any]
    _urls: list[Any]
    _get_view_url: Callable[[Any, str | None], str]

    # -- Access and answers ---------------------------------------------------------------------

    def is_accessible(self) -> bool:
        """Tell whether the visitor may see the trail: ``AuditLogger(can_view=…)`` decides."""
        try:
            logger = current_logger()
        except NotRegisteredError:
            return False
        return logger.can_view is not None and bool(logger.can_view(logger.current_actor()))

    def inaccessible_callback(self, name: str, **kwargs: Any) -> Any:
        """Answer a visitor without access."""
        return self._answer_problem(Problem.closed(current_logger()))

    def _handle_view(self, name: str, **kwargs: Any) -> Any:
        if name in _OPEN_VIEWS:
            return None
        try:
            current_logger()
        except NotRegisteredError as error:
            return self._answer_problem(problem_of(error))
        return None if self.is_accessible() else self.inaccessible_callback(name, **kwargs)

    def _run_view(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # Flask-Admin calls a view that raised a TypeError a second time, with other arguments.
        try:
            documents.check_format()
            return source.read(lambda: fn(self, *args, **kwargs))
        except HTTPException:
            raise
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                raise
            return self._answer_problem(problem)

    def _answer_problem(self, problem: Problem | None) -> Response:
        problem = problem or Problem.internal()
        response = self._answer(
            "audit/problem.html",
            status=problem.status,
            document=lambda: documents.problem_document(problem),
            problem=problem,
        )
        if problem.retry_after:
            response.headers["Retry-After"] = str(problem.retry_after)
        return response

    def _answer(
        self,
        template: str,
        *,
        document: Callable[[], Mapping[str, Any]],
        status: int = 200,
        **values: Any,
    ) -> Response:
        """Answer with a page, or with the document where JSON is asked for."""
        if documents.wants_json():
            mimetype = documents.PROBLEM if status >= 400 else "application/json"
            return self._guarded(documents.answer(document(), status, mimetype))
        # What Flask-Admin offers to templates fails where flask-babel is not initialised.
        self._template_args.update(
            _gettext=host_gettext("gettext"), _ngettext=host_gettext("ngettext")
        )
        html = self.render(  # type: ignore[attr-defined]
            template,
            audit_layout=self.layout,
            audit_links=self.links,
            audit_language=language(),
            audit_logo=theme.logo(),
            audit_nonce=_nonce(),
            audit_source=source.note(),
            t=translator(),
            **values,
        )
        return self._guarded(make_response(html, status))

    def _guarded(self, response: Response) -> Response:
        response.vary.add("Accept")
        for name, value in {**_HEADERS, **source.headers()}.items():
            response.headers.setdefault(name, value)
        response.vary.add("Accept-Language")
        if self.stands_alone:
            response.headers.setdefault("Content-Security-Policy", _POLICY)
        return response

    def create_blueprint(self, admin: Any) -> Any:
        """Create the blueprint, and let it find our templates wherever it is mounted."""
        if self._get_view_url(admin, self.url) == "/":
            # At the root of the site, other addresses are the host's.
            self._urls = [url for url in self._urls if url[1] != "elsewhere"]
        blueprint = super().create_blueprint(admin)  # type: ignore[misc]
        blueprint.jinja_loader = ChoiceLoader([PackageLoader("audit_app"), blueprint.jinja_loader])
        blueprint.add_app_template_filter(number_text, "audit_number")
        return blueprint

    def _redirect(self, url: str) -> Response:
        if documents.wants_json():
            response = documents.answer({"href": url}, 302)
            response.location = url
        else:
            response = make_response(redirect(url))
        return self._guarded(response)

    @property
    def links(self) -> Links:
        """The addresses of the pages of this view."""
        answer = "json" if documents.wants_json() else None
        return Links(self.endpoint, zone=request.args.get("tz"), answer=answer)


def _nonce() -> str:
    """The nonce that this response's policy has for scripts and styles; empty without one."""
    generator = current_app.config.get("AUDIT_CSP_NONCE")
    return str(generator()) if generator is not None else ""
