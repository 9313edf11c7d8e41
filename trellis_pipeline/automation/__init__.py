"""What runs by itself (jobs, schedules, sensors), and runs started in this process."""
