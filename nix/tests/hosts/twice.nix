{ address = "10.0.0.3"; }
