"""What comes to a site of finished jobs: adapters and versions, verified, kept, evaluated here and voted on."""
