"""The demo application: a small reference-data desk whose every change is on record."""
