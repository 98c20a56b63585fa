"""The process that holds the secrets, the socket in front of it, and what it tells about itself."""
