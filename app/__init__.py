"""The HTTP front end: decodes, checks, queues and presents. Never imports torch."""

import os

# before numpy is imported: maps are small, and a BLAS thread pool costs ten times what it gains
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
