"""What maintainers run: vendored files, pictures of the documentation, the browser of the tests."""
