"""One Ray program a stage. Run as scripts: python jobs/NAME.py --help."""
