"""Google's REST APIs: how they are reached. Secret Manager is reached by gRPC, by its store."""
