"""An application on a fake pool, as for the tests of frontends, and real pools."""

from tests.end_to_end.conftest import cache_dir as cache_dir
from tests.end_to_end.conftest import fake_pool as fake_pool
from tests.end_to_end.conftest import launch as launch
from tests.frontend.conftest import client as client
from tests.frontend.conftest import make_app as make_app
from tests.frontend.conftest import pool as pool
from tests.frontend.conftest import text as text
from tests.frontend.conftest import text_path as text_path
