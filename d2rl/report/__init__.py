"""What people look at: terminal table, report page, figures."""
