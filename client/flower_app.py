"""What a job's bundle names as its ClientApp: `clientapp = "yoriai.client.flower_app:app"`.

The bundle carries no code; this is the site's own. It forwards bytes to the daemon whose socket the site's operator set
in the node's configuration.
"""

from yoriai.client.daemon.door import door_of_node
from yoriai.client.node.app import client_app

app = client_app(lambda context: door_of_node(context.node_config))
