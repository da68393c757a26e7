"""CA certificates of TPM manufacturers that come with Attestream, each with where it comes from."""
