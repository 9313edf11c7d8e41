"""What runs by itself, and how a run is started from here: jobs, schedules, sensors, and runs in this process."""
