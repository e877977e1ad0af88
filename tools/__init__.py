"""What maintainers run: vendored files, images of the documentation, the browser of the tests."""
