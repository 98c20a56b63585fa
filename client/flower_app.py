"""What a job's bundle names as its ClientApp: `clientapp = "yoriai.client.flower_app:app"`.

The bundle carries no code; this is the site's own. It forwards bytes to the daemon whose socket the site's operator set
in the node's configuration.
"""

from yoriai.client.daemon.daemon_client import daemon_client_of_node
from yoriai.client.node.client_app import client_app

app = client_app(lambda context: daemon_client_of_node(context.node_config))
