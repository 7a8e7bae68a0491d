"""What people see of experiments in a terminal: tables, descriptions, logs and curves. It only reads."""
