"""The timed client: streams over HTTP with arrival times that can be trusted, and plain control calls."""
