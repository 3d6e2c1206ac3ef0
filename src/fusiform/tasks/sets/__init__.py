"""Readers of labelled photo sets: one file per set, knowing its folders, its label files and its quirks."""
