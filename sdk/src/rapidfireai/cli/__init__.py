"""The command line `rapidfireai`: one file a command. Whatever is slow to import is imported when it is used."""
