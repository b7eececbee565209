"""What is shipped, and out of what: pins with hashes, licences, the bill of materials, archives."""
