{ tags = [ "shared" ]; }
