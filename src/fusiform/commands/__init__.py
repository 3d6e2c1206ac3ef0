"""What each verb of the command line does: flags in, functions called, results printed."""
