"""One explained prompt as files to keep: a report that opens offline, JSON, and tables. Knows no Streamlit.

``python -m app.report "The capital of France is" --out report.html`` writes the same from the shell.
"""
