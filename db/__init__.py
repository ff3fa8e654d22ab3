"""What is stored, and the questions it answers. Knows neither torch nor Streamlit."""
