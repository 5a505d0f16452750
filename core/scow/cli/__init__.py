"""``scow``: the command line in docker's grammar. It talks to the API and to nothing else of Scow."""
