"""What people look at to approve or reject: the report page of a run and contact sheets."""
