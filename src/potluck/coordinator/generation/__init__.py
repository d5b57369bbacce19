"""One request's life from prompt to answer: the seam between an API's jobs and the swarm's sessions."""
