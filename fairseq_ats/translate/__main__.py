from fairseq_ats.translate.command_line import main

if __name__ == "__main__":
    main()
