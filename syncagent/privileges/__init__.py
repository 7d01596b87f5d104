"""Root's privileges: the user that a verb runs as when root starts it.

Root must not write below a path that another user can redirect. The owner of a directory or symbolic link on the way
to the state or to a table can replace its target between two system calls of root. A verb started by root therefore
becomes that owner, permanently, before it does anything there. If the owner may not write the state directory, the verb
is refused, with the command that corrects the layout.

``least_owner`` has the rule. ``path_components`` examines the way to a file, ``layout`` judges ways, ``places`` has the
paths of a configuration.
"""

from syncagent.privileges.accounts import AGENT, has_agent
from syncagent.privileges.environment import safe_path
from syncagent.privileges.least_owner import become_least_owner, require_safe_root
from syncagent.privileges.path_components import open_directory
from syncagent.privileges.places import look

__all__ = [
    "AGENT",
    "become_least_owner",
    "has_agent",
    "look",
    "open_directory",
    "require_safe_root",
    "safe_path",
]
