"""Audio: from an uploaded file to the features of its windows."""
