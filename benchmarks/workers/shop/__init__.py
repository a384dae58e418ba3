"""The Django application with the article table."""
