"""What people read about an export, made from saved data through templates."""
