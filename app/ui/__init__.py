"""The pages: what a person sees and clicks."""
