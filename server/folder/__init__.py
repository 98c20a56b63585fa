"""A server's folder: what lies in it, its certificates, and how a coordinator comes into a federation."""
