"""What a job's bundle names as its ServerApp: `serverapp = "yoriai.server.flower_app:app"`.

The bundle carries no code; this is the server's own. It finds the server's folder in the environment, which Flower's
SuperLink hands on from `yoriai server start`, and the job in the run's configuration.
"""

from yoriai.server.service.server_app import deployed_app

app = deployed_app()
