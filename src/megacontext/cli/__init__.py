"""The command line: thin verbs over the library, one file each. Nothing heavy is imported before a verb needs it."""
