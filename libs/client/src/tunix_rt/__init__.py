"""What a user of Tunix RT installs: the typed SDK (`tunix_rt.client.Client`) and the `tunix-rt` command."""
