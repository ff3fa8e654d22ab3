"""The model side: where neurons live, how they are read, and the offline job that projects them. Knows no Streamlit."""
