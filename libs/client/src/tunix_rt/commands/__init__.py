"""The subcommands of `tunix-rt`: each module reads options, calls the SDK and shows the answer."""
