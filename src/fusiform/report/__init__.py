"""Result rows, logs and pictures in; one self-contained HTML page, or a table for the terminal, out.  (no torch)"""

from fusiform.report.command import report_command
from fusiform.report.data import DataSummary
from fusiform.report.page import write_report
from fusiform.report.pictures import Picture, Tile
from fusiform.report.runs import RunSummary
from fusiform.report.text import table_text

__all__ = ["DataSummary", "Picture", "RunSummary", "Tile", "report_command", "table_text", "write_report"]
