"""A clustering to look at: one HTML page, and one picture."""

from clusterer.report.build import write_report
from clusterer.report.sheet import contact_sheet

__all__ = ["contact_sheet", "write_report"]
