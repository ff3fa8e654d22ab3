"""What people see: one prompt explained (`app.attribution`, a plain library) and the dashboard on top of it."""
