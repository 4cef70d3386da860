"""What two processes must agree on: settings, requests, records, pixels, networks, the model store, engines."""
