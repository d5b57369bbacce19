"""The web server of the coordinator and of sharing nodes: uvicorn, within bounds that no stranger can exceed."""
