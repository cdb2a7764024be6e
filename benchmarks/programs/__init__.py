"""What the Python peers run, each as a process of its own: what a careful user of that library would write."""
