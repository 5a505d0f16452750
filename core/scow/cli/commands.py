"""The table of commands: names, modules and one line each. ``scow --help`` imports none of them."""

from __future__ import annotations

from scow.cli.grammar import Entry

_RUN = Entry("scow.cli.run", "run", "Create and run a new container from an image")
_EXEC = Entry("scow.cli.exec", "exec_", "Execute a command in a running container")
_PS = Entry("scow.cli.ps", "ps", "List containers")
_PULL = Entry("scow.cli.transfer", "pull", "Download an image from a registry")
_PUSH = Entry("scow.cli.transfer", "push", "Upload an image to a registry")
_IMAGES = Entry("scow.cli.images", "images", "List images")
_INFO = Entry("scow.cli.system", "info", "Display system-wide information")
_EVENTS = Entry("scow.cli.events", "events", "Get real time events from the server")
_TAG = Entry("scow.cli.images", "tag", "Create a tag that refers to an image")
_HISTORY = Entry("scow.cli.images", "history", "Show the history of an image")
_IMPORT = Entry("scow.cli.archives", "import_", "Import the contents from a tarball to create a filesystem image")
_RMI = Entry("scow.cli.images", "rmi", "Remove one or more images")
_SAVE = Entry("scow.cli.archives", "save", "Save one or more images to a tar archive (streamed to STDOUT by default)")
_LOAD = Entry("scow.cli.archives", "load", "Load images from a tar archive or STDIN")
_LIFE = "scow.cli.lifecycle"

CONTAINER: dict[str, Entry] = {
    "attach": Entry("scow.cli.attach", "attach", "Attach to a running container's input and output"),
    "commit": Entry("scow.cli.archives", "commit", "Create a new image from a container's changes"),
    "create": Entry("scow.cli.run", "create", "Create a new container"),
    "export": Entry("scow.cli.archives", "export", "Export a container's filesystem as a tar archive"),
    "kill": Entry(_LIFE, "kill", "Kill one or more running containers"),
    "logs": Entry("scow.cli.logs", "logs", "Fetch the logs of a container"),
    "pause": Entry(_LIFE, "pause", "Pause all processes within one or more containers"),
    "port": Entry("scow.cli.ps", "port", "List port mappings or a specific mapping for the container"),
    "rename": Entry(_LIFE, "rename", "Rename a container"),
    "restart": Entry(_LIFE, "restart", "Restart one or more containers"),
    "rm": Entry(_LIFE, "rm", "Remove one or more containers"),
    "start": Entry("scow.cli.attach", "start", "Start one or more stopped containers"),
    "stats": Entry("scow.cli.stats", "stats", "Display a live stream of container resource usage statistics"),
    "stop": Entry(_LIFE, "stop", "Stop one or more running containers"),
    "top": Entry("scow.cli.ps", "top", "Display the running processes of a container"),
    "unpause": Entry(_LIFE, "unpause", "Unpause all processes within one or more containers"),
    "update": Entry("scow.cli.update", "update", "Update configuration of one or more containers"),
    "wait": Entry(_LIFE, "wait", "Block until one or more containers stop, then print their exit codes"),
}

TABLE: dict[str, dict[str, Entry]] = {
    "Common Commands": {
        "run": _RUN,
        "exec": _EXEC,
        "ps": _PS,
        "pull": _PULL,
        "push": _PUSH,
        "images": _IMAGES,
        "login": Entry("scow.cli.registry", "login", "Log in to a registry"),
        "logout": Entry("scow.cli.registry", "logout", "Log out from a registry"),
        "search": Entry("scow.cli.registry", "search", "Search Docker Hub or another registry for images"),
        "version": Entry("scow.cli.system", "version", "Show the Scow version information"),
        "info": _INFO,
        "demo": Entry("scow.cli.demo", "demo", "Run nginx, and show each step that the engine takes"),
    },
    "Management Commands": {
        "container": Entry("scow.cli.groups", "container", "Manage containers"),
        "image": Entry("scow.cli.groups", "image", "Manage images"),
        "network": Entry("scow.cli.groups", "network", "Manage networks"),
        "plugin": Entry("scow.cli.groups", "plugin", "Manage plugins and drivers"),
        "system": Entry("scow.cli.groups", "system", "Manage Scow"),
        "volume": Entry("scow.cli.groups", "volume", "Manage volumes"),
    },
    "Commands": dict(
        sorted(
            {
                **CONTAINER,
                "events": _EVENTS,
                "help": Entry("scow.cli.help", "help_", "Show the help of a command"),
                "history": _HISTORY,
                "import": _IMPORT,
                "inspect": Entry("scow.cli.inspect", "inspect", "Return low-level information on objects"),
                "load": _LOAD,
                "rmi": _RMI,
                "save": _SAVE,
                "tag": _TAG,
            }.items()
        )
    ),
}

_PRUNE = "scow.cli.prune"

IMAGE: dict[str, Entry] = {
    "diff": Entry("scow.cli.image_layers", "diff", "Show what each layer of an image adds and wastes"),
    "history": _HISTORY,
    "import": _IMPORT,
    "inspect": Entry("scow.cli.inspect", "inspect_images", "Display detailed information on one or more images"),
    "load": _LOAD,
    "ls": Entry("scow.cli.images", "images", "List images"),
    "prune": Entry(_PRUNE, "images", "Remove unused images"),
    "pull": _PULL,
    "push": _PUSH,
    "rm": _RMI,
    "save": _SAVE,
    "tag": _TAG,
    "tree": Entry("scow.cli.image_layers", "tree", "Show which layers images share"),
}
CONTAINERS: dict[str, Entry] = dict(
    sorted(
        {
            **CONTAINER,
            "exec": _EXEC,
            "inspect": Entry("scow.cli.inspect", "inspect_containers", "Display detailed information on containers"),
            "ls": _PS,
            "prune": Entry(_PRUNE, "containers", "Remove all stopped containers"),
            "run": _RUN,
        }.items()
    )
)
NETWORK: dict[str, Entry] = {
    "inspect": Entry("scow.cli.inspect", "inspect_networks", "Display detailed information on one or more networks"),
    "ls": Entry("scow.cli.objects", "networks", "List networks"),
    "prune": Entry(_PRUNE, "networks", "Remove all unused networks"),
}
VOLUME: dict[str, Entry] = {
    "create": Entry("scow.cli.objects", "create_volume", "Create a volume"),
    "inspect": Entry("scow.cli.inspect", "inspect_volumes", "Display detailed information on one or more volumes"),
    "ls": Entry("scow.cli.objects", "volumes", "List volumes"),
    "prune": Entry(_PRUNE, "volumes", "Remove unused local volumes"),
    "rm": Entry("scow.cli.objects", "remove_volumes", "Remove one or more volumes"),
}
SYSTEM: dict[str, Entry] = {
    "df": Entry("scow.cli.disk_usage", "df", "Show disk usage"),
    "events": _EVENTS,
    "info": _INFO,
    "prune": Entry(_PRUNE, "system", "Remove unused data"),
}
PLUGIN: dict[str, Entry] = {"ls": Entry("scow.cli.objects", "plugins", "List drivers and plugins, and their state")}
