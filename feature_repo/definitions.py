"""All that ``feast apply`` sees: the views of every project, re-exported.

Feast imports the files of this folder as top-level modules; a file read twice under two names would
define everything twice. So ``views/`` is in ``.feastignore`` and comes in here, once.
"""

from views.nyc_flights import *  # noqa: F403
