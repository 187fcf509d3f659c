"""The commands, one file for each group; `manor_cli.main` imports them when they are asked for."""
