"""The HTTP service and its page: photos in, faces out, nothing kept.

`fusiform serve MODEL` (docs/serve.md). Importing this package imports neither torch nor the web framework.
"""
