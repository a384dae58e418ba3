"""The article in Django, tracked by the level that the settings name, or not at all."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Article(models.Model):  # type: ignore[misc]
    """The same six columns as on the other side."""

    id = models.IntegerField(primary_key=True)
    title = models.TextField()
    body = models.TextField()
    rating = models.DecimalField(max_digits=12, decimal_places=3)
    at = models.DateTimeField()
    n = models.IntegerField()

    class Meta:
        db_table = "article"
        app_label = "shop"


if settings.BENCH_LEVEL:
    import pghistory

    # Deletions are not among its default trackers; here they are to be recorded, too.
    pghistory.track(
        pghistory.InsertEvent(),
        pghistory.UpdateEvent(),
        pghistory.DeleteEvent(),
        level=getattr(pghistory, settings.BENCH_LEVEL),
    )(Article)
