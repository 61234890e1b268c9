"""Language models behind the ``Base`` port. Importing this room loads neither torch nor transformers."""
