"""`python -m usage_worker.service worker|beat|flower` is `celery -A usage_worker …`, whatever the current folder holds.

Celery's own command puts the current folder in front of the module search path, where an application's `redis.py` or
`worker.py` would be found first.
"""

import sys

from usage_worker.service.app import create_app

sys.exit(create_app().start(sys.argv[1:]))
