"""Files and folders to text: discovery and one parser per format."""
