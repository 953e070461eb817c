"""What came of a run: tables, intervals, pictures, the trace page. Run as `python -m analysis.report A B`."""
